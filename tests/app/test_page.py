"""The page in a headless browser; skipped unless Gradio, Selenium, Chromium and its driver are installed."""

import shutil
import socket

import numpy as np
import pytest
from PIL import Image

from flash_internimage.app.models import Models
from flash_internimage.app.page import build_page
from flash_internimage.errors import UserError
from flash_internimage.inference import Predictor

pytest.importorskip("gradio")
webdriver = pytest.importorskip("selenium.webdriver")
if shutil.which("chromedriver") is None or shutil.which("chromium") is None:
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")]

NANO = "mask_rcnn_flash_internimage_nano"
_FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
_FLAGS += [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--window-size=1280,1400",
]
_SECONDS = 60


def refusing():
    raise UserError("no such checkpoint")


@pytest.fixture(scope="module")
def page(nano_checkpoint):
    """URL of the page."""
    predictor = Predictor(NANO, nano_checkpoint, device="cpu", min_score=0.05)
    blocks = build_page(Models({"nano": lambda: predictor, "missing": refusing}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _, url, _ = blocks.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True)
    yield url
    blocks.close()


@pytest.fixture
def browser(page, tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in [*_FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.get(page)
    wait(driver, lambda: detect_button(driver))
    yield driver
    driver.quit()


def wait(browser, condition):
    return WebDriverWait(browser, _SECONDS).until(lambda _: condition())


def detect_button(browser):
    return next((b for b in browser.find_elements(By.TAG_NAME, "button") if b.text == "Detect" and b.is_displayed()), None)


def threshold(browser):
    return browser.find_element(By.CSS_SELECTOR, "[data-testid=range-input]")


def cells(browser):
    """Texts of the cells of the table, row by row; in one call, since the page replaces the cells while it is drawn."""
    script = "return [...document.querySelectorAll(\"[data-testid^='cell-']\")].map(cell => cell.innerText.trim())"
    return browser.execute_script(script)


def test_detects_and_filters(browser, nano_checkpoint, tmp_path):
    file = tmp_path / "noise.png"
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 96, 3)).astype(np.uint8)).save(file)
    threshold(browser).send_keys(Keys.HOME)
    browser.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys(str(file))
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "img[src*='noise']"))
    detect_button(browser).click()
    found = wait(browser, lambda: cells(browser))
    best = Predictor(NANO, nano_checkpoint, device="cpu")(str(file))["instances"]
    assert found[:2] == [["mug", "spoon", "US$ fork"][best.pred_classes[0]], f"{best.scores[0].item():.3f}".rstrip("0")]
    threshold(browser).send_keys(Keys.END)
    wait(browser, lambda: not cells(browser))


def test_a_missing_image_is_a_message(browser):
    detect_button(browser).click()
    wait(browser, lambda: "no image: drop one on the left" in browser.find_element(By.TAG_NAME, "body").text)


def test_a_model_that_cannot_be_loaded_is_a_message(browser, tmp_path):
    file = tmp_path / "noise.png"
    Image.new("RGB", (64, 64)).save(file)
    browser.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys(str(file))
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "img[src*='noise']"))
    choice = browser.find_element(By.CSS_SELECTOR, "input[aria-label='Detector']")
    choice.click()
    wait(browser, lambda: [o for o in browser.find_elements(By.CSS_SELECTOR, "[role=option]") if o.text.endswith("missing")])[
        0
    ].click()
    detect_button(browser).click()
    wait(browser, lambda: "no such checkpoint" in browser.find_element(By.TAG_NAME, "body").text)
