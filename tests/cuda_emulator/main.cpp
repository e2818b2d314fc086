// Answers requests on stdin (see request.h) until it ends. Whatever a GPU would not forgive ends the process, with a
// report on stderr.

#include "machine.h"
#include "operators.h"

#include <iostream>
#include <map>
#include <string>

namespace cuda_emulator {

namespace {

auto& operators() {
  static std::map<std::string, void (*)(const Request& request)> table;
  return table;
}

} // namespace

bool add_operator(const char* name, void (*run)(const Request& request)) {
  return operators().emplace(name, run).second;
}

} // namespace cuda_emulator

int main() {
  using namespace cuda_emulator;
  std::ios::sync_with_stdio(false);
  std::string line;
  while (std::getline(std::cin, line)) {
    const Request request(line, std::cin);
    schedule.order = request.integer("order");
    schedule.first_block = static_cast<unsigned>(request.integer("first_block"));
    schedule.last_block = static_cast<unsigned>(request.integer("last_block"));
    const auto found = operators().find(request.text("operator"));
    if (found == operators().end()) {
      fault("this program lacks the operator %s", request.text("operator").c_str());
    }
    found->second(request);
    request.answer(std::cout);
  }
  return 0;
}
