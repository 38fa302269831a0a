// Writes waves to a VCD file (sim/rtl/trace.py calls it through ctypes).  The build chooses the traced signals.

#include <cerrno>

#include "harness.h"
#include "verilated_vcd_c.h"

namespace {

// This class replaces Verilator's writer, which ends the process if the disk is full.  ``whole`` is false after a failure.
struct File : VerilatedVcdFile {
    bool whole = true;

    ssize_t write(const char* bytes, ssize_t n) override {
        const ssize_t written = VerilatedVcdFile::write(bytes, n);
        if (written >= 0 || errno == EAGAIN || errno == EINTR) return written;
        whole = false;
        return n;
    }
};

struct Tracer : Witness {
    File file;
    VerilatedVcdC vcd{&file};
    uint64_t time = 0;

    void look(bool) override { vcd.dump(time++); }
};

}  // namespace

extern "C" {

// Write waves to a file from the next cycle on.  A cycle takes two units of time: clk is low, then high.  Returns 0, or 1 if
// the file cannot be opened.  A simulation can do this once.
int simulation_trace(Simulation* s, const char* path) {
    auto tracer = std::make_unique<Tracer>();
    s->chip->trace(&tracer->vcd, 99);
    tracer->vcd.open(path);
    if (!tracer->vcd.isOpen()) return 1;
    s->witness = std::move(tracer);
    return 0;
}

// Close the file.  Returns 0, or 1 if some of it could not be written.
int simulation_trace_end(Simulation* s) {
    Tracer& tracer = static_cast<Tracer&>(*s->witness);
    tracer.vcd.dump(tracer.time);  // the low half after the last cycle, which ends it
    tracer.vcd.close();
    const bool whole = tracer.file.whole;
    s->witness.reset();
    return !whole;
}

}  // extern "C"
