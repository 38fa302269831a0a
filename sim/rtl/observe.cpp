// Records the beats that move at chosen streams of the chip (sim/rtl/observe.py calls it through ctypes).

#include <cstring>
#include <string>
#include <vector>

#include "harness.h"
#include "verilated_sym_props.h"

namespace {

struct Tap {
    const uint8_t *valid, *ready;
    const void* payload;
    std::size_t bytes, words;  // of the payload: bytes in Verilator's memory, and words of 64 bits in the record
    std::vector<uint64_t> beats;
};

struct Recorder : Witness {
    std::vector<Tap> taps;

    void look(bool high) override {
        if (high) return;
        for (Tap& tap : taps) {
            if (!(*tap.valid && *tap.ready)) continue;
            const std::size_t end = tap.beats.size();
            tap.beats.resize(end + tap.words);
            std::memcpy(&tap.beats[end], tap.payload, tap.bytes);
        }
    }
};

Recorder& recorder(Simulation* s) {
    if (!s->witness) s->witness = std::make_unique<Recorder>();
    return static_cast<Recorder&>(*s->witness);
}

}  // namespace

extern "C" {

// Record the stream ``port`` of the module at ``scope`` from now on, its payloads of ``bits`` bits.  Returns 0, or 1 if there
// is no such stream.
int simulation_tap(Simulation* s, const char* scope, const char* valid, const char* ready, const char* payload, uint32_t bits) {
    const VerilatedScope* module = s->context.scopeFind((std::string("TOP.") + scope).c_str());
    if (!module) return 1;
    const VerilatedVar *v = module->varFind(valid), *r = module->varFind(ready), *p = module->varFind(payload);
    if (!v || !r || !p || v->entBits() != 1 || r->entBits() != 1 || p->entBits() != bits) return 1;
    recorder(s).taps.push_back({static_cast<const uint8_t*>(v->datap()), static_cast<const uint8_t*>(r->datap()), p->datap(),
                                p->entSize(), (bits + 63) / 64, {}});
    return 0;
}

// Count the 64-bit words that a tap has recorded since the last simulation_take.
uint64_t simulation_recorded(Simulation* s, int tap) { return recorder(s).taps[tap].beats.size(); }

// Copy those words, the earliest beat first, and clear the record.
void simulation_take(Simulation* s, int tap, uint64_t* words) {
    std::vector<uint64_t>& beats = recorder(s).taps[tap].beats;
    std::memcpy(words, beats.data(), beats.size() * sizeof(uint64_t));
    beats.clear();
}

}  // extern "C"
