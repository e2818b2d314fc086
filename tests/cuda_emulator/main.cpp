// Answers requests on stdin (see request.h) until it ends. Whatever a GPU would not forgive ends the process, with a
// report on stderr.

#include "machine.h"
#include "operators.h"

#include <iostream>
#include <string>

int main() {
  using namespace cuda_emulator;
  std::ios::sync_with_stdio(false);
  std::string line;
  while (std::getline(std::cin, line)) {
    const Request request(line, std::cin);
    schedule.order = request.integer("order");
    schedule.first_block = static_cast<unsigned>(request.integer("first_block"));
    schedule.last_block = static_cast<unsigned>(request.integer("last_block"));
    const std::string& name = request.text("operator");
    if (name == "dcnv4") {
      run_dcnv4(request);
    } else if (name == "ms_deform_attn") {
      run_ms_deform_attn(request);
    } else {
      fault("the request names the operator %s", name.c_str());
    }
    request.answer(std::cout);
  }
  return 0;
}
