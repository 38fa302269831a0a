// Where a simulation cannot go on, Verilator would end the whole process.  Here it throws, and the harness tells its caller.

#include <stdexcept>
#include <string>

#include "verilated.h"

namespace {

[[noreturn]] void stop(const char* file, int line, const std::string& why) {
    throw std::runtime_error(std::string(file) + ":" + std::to_string(line) + ": " + why);
}

}  // namespace

void vl_finish(const char* file, int line, const char*) { stop(file, line, "$finish"); }
void vl_stop(const char* file, int line, const char*) { stop(file, line, "$stop or $fatal"); }
void vl_fatal(const char* file, int line, const char*, const char* message) { stop(file, line, message); }
