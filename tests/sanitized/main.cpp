// Answers the requests on stdin (see request.h). If a sanitizer detects an error, the process ends with a report on
// stderr.

#include "registry.h"

#include <iostream>
#include <map>
#include <stdexcept>
#include <string>

namespace sanitized {

namespace {

auto& operators() {
  static std::map<std::string, void (*)(const Request& request)> table;
  return table;
}

} // namespace

bool add_operator(const char* name, void (*run)(const Request& request)) {
  return operators().emplace(name, run).second;
}

} // namespace sanitized

int main() {
  using namespace sanitized;
  std::ios::sync_with_stdio(false);
  std::string line;
  while (std::getline(std::cin, line)) {
    const Request request(line, std::cin);
    const auto found = operators().find(request.text("operator"));
    if (found == operators().end()) {
      throw std::runtime_error("this program lacks the operator " + request.text("operator"));
    }
    found->second(request);
    request.answer(std::cout);
  }
  return 0;
}
