# Images with the command `flash-internimage`. The default target serves the page of `flash-internimage app`.
#
#   docker build --target cpu -t flash-internimage:cpu .
#   docker build --target cuda -t flash-internimage:cuda .
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/workspace" flash-internimage:cuda train --config-file ...
#
# /dev/shm carries the batches of the loader's workers: without --shm-size it has 64 MB.

FROM python:3.12-slim-bookworm AS system
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

FROM system AS sources
WORKDIR /source
COPY . .

FROM sources AS cpu-build
RUN pip install --index-url https://download.pytorch.org/whl/cpu -r requirements/torch.txt
RUN FORCE_CUDA=0 sh tools/install_in_image.sh

FROM sources AS cuda-build
ARG TORCH_CUDA_ARCH_LIST="8.0 8.6 8.9 9.0 10.0 12.0+PTX"
RUN pip install -r requirements/torch.txt
RUN FORCE_CUDA=1 sh tools/install_in_image.sh

FROM system AS cuda
COPY --from=cuda-build /usr/local /usr/local
WORKDIR /workspace
ENTRYPOINT ["flash-internimage"]

FROM system AS cpu
COPY --from=cpu-build /usr/local /usr/local
WORKDIR /workspace
ENTRYPOINT ["flash-internimage"]

FROM cpu AS app
RUN --mount=from=sources,source=/source/requirements,target=/requirements pip install -c /requirements/constraints.txt gradio
# Hugging Face runs the container as this user.
RUN useradd --create-home --uid 1000 user
USER user
WORKDIR /home/user
EXPOSE 7860
CMD ["app", "--host", "0.0.0.0"]
