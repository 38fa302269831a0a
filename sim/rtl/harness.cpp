// One chip in a shared library, driven a token at a time (sim/rtl/chip.py calls it through ctypes).
//
// COMMAND_WORDS, REPLY_WORDS: 32-bit words of the chip's i and o payloads.
// LANES, WIDE_BITS: values in a beat of logits, and their width.
// STEPS: kinds of matrices, whose busy cycles are counted apart.
// LORA: defined if the chip takes adapters.

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "harness.h"
#include "verilated_save.h"

namespace {

// Ports of up to 64 bits are integers, wider ones arrays of 32-bit words.
template <typename T>
uint32_t word(const T& value, int i) {
    return static_cast<uint32_t>(static_cast<uint64_t>(value) >> (32 * i));
}
template <std::size_t N>
uint32_t word(const VlWide<N>& value, int i) {
    return i < static_cast<int>(N) ? value[i] : 0;
}
template <typename T>
void set_words(T& value, const uint32_t* words, int) {
    value = static_cast<T>(words[0] | static_cast<uint64_t>(words[1]) << 32);
}
template <std::size_t N>
void set_words(VlWide<N>& value, const uint32_t* words, int) {
    for (std::size_t i = 0; i < N; ++i) value[i] = words[i];
}

template <typename T>
int32_t lane(const T& beat, int i) {
    const int low = i * WIDE_BITS, shift = low % 32;
    uint64_t pair = word(beat, low / 32);
    if (shift + WIDE_BITS > 32) pair |= static_cast<uint64_t>(word(beat, low / 32 + 1)) << 32;
    // A shift to the top bits and back extends the sign.
    return static_cast<int32_t>(static_cast<uint32_t>(pair >> shift) << (32 - WIDE_BITS)) >> (32 - WIDE_BITS);
}

// Verilator's stream of a chip's whole state, in memory.  It counts all bytes, and keeps those for which there is room.
class Writer final : public VerilatedSerialize {
public:
    Writer(uint8_t* bytes, uint64_t room) : bytes(bytes), room(room) {}
    void flush() override {
        const uint64_t n = m_cp - m_bufp;
        if (size < room) std::memcpy(bytes + size, m_bufp, std::min(n, room - size));
        size += n;
        m_cp = m_bufp;
    }
    uint64_t size = 0;

private:
    uint8_t* bytes;
    uint64_t room;
};

class Reader final : public VerilatedDeserialize {
public:
    Reader(const uint8_t* bytes, uint64_t size) {
        m_cp = const_cast<uint8_t*>(bytes);
        m_endp = m_cp + size;
    }
    void fill() override {}  // nothing to refill: the whole state is in memory
};

// Why the latest chip of this thread stopped by itself (stopped.cpp).
thread_local std::string reason;
constexpr int STOPPED = 3;

template <typename Run>
int guarded(Run run) {
    try {
        return run();
    } catch (const std::runtime_error& error) {
        reason = error.what();
        return STOPPED;
    }
}

}  // namespace

extern "C" {

const char* simulation_reason() { return reason.c_str(); }

// Counts between the entry of a token and its reply; Statistics of library.py.
struct Statistics {
    uint64_t cycles;           // from the cycle in which the token is taken to that of the reply, both counted
    uint64_t busy[STEPS];      // cycles in which the fabric read a weight word, by matrix
    uint64_t within[STEPS];    // cycles from a matrix's first weight word to its last
    uint64_t logits;           // logits that were written
};

// Returns null if the folder is not there, or if the chip stops, for example because a ROM image is missing.
Simulation* simulation_new(const char* rom_folder) {
    char here[4096];
    reason.clear();
    if (!getcwd(here, sizeof here) || chdir(rom_folder)) return nullptr;
    auto s = std::make_unique<Simulation>();
#if VM_TRACE
    s->context.traceEverOn(true);
#endif
    s->chip = std::make_unique<Vchip>(&s->context);
    s->chip->clk = 0;
    s->chip->rst = 1;
    s->chip->i___05Fvalid = 0;
    s->chip->o___05Fready = 0;
#ifdef LORA
    s->chip->load___05Fvalid = 0;
    s->chip->loaded___05Fready = 0;
#endif
    const int failed = guarded([&] {
        s->chip->eval();  // reads the ROM images
        for (int i = 0; i < 4; ++i) s->tick();
        s->chip->rst = 0;
        s->tick();  // the chip registers its reset
        return 0;
    });
    const int back = chdir(here);
    (void)back;
    return failed ? nullptr : s.release();
}

void simulation_delete(Simulation* s) {
    // The destructors of scopes use the thread's context.  That is the context of the latest chip, which may be deleted.
    Verilated::threadContextp(&s->context);
    delete s;
}

// Copy all registers and memories, also the ROMs, between two tokens.  Returns the number of bytes, and writes as many of
// them as there is room for.
uint64_t simulation_state(Simulation* s, uint8_t* bytes, uint64_t room) {
    Writer writer(bytes, room);
    writer << *s->chip;
    writer.flush();
    return writer.size;
}

// Restore such a state.  It must come from this library: Verilator ends the process otherwise.
void simulation_restore(Simulation* s, const uint8_t* bytes, uint64_t size) {
    Reader reader(bytes, size);
    reader >> *s->chip;
    s->chip->eval();
}

namespace {

int token(Simulation* s, const uint32_t* command, uint32_t* reply, int32_t* logits, uint64_t capacity,
                     uint64_t max_cycles, Statistics* out) {
    Vchip& chip = *s->chip;
    Statistics stats;
    std::memset(&stats, 0, sizeof stats);
    set_words(chip.i___05Fpayload, command, COMMAND_WORDS);
    chip.i___05Fvalid = 1;
    chip.o___05Fready = 1;
    chip.eval();
    int step = -1;                     // step of the matrix that the fabric reads
    uint64_t first = 0, last = 0;      // cycles of its first and its latest weight word
    bool started = false, full = false;
    for (uint64_t waited = 0; waited < max_cycles; ++waited) {
        const bool taken = chip.i___05Fvalid && chip.i___05Fready, replied = chip.o___05Fvalid;
        if (taken) started = true;
        if (started) ++stats.cycles;
        if (chip.logits_valid) {
            for (int i = 0; i < LANES; ++i) {
                if (stats.logits < capacity) logits[stats.logits] = lane(chip.logits, i);
                else full = true;
                ++stats.logits;
            }
        }
        if (chip.busy && chip.step < STEPS) {
            ++stats.busy[chip.step];
            if (chip.step != step) {
                if (step >= 0) stats.within[step] += last - first + 1;
                step = chip.step;
                first = waited;
            }
            last = waited;
        }
        if (replied)
            for (int i = 0; i < REPLY_WORDS; ++i) reply[i] = word(chip.o___05Fpayload, i);
        s->tick();
        if (taken) {
            chip.i___05Fvalid = 0;
            chip.eval();
        }
        if (replied) {
            if (step >= 0) stats.within[step] += last - first + 1;
            chip.o___05Fready = 0;
            chip.eval();
            *out = stats;
            return full ? 2 : 0;
        }
    }
    return 1;
}

#ifdef LORA
int load(Simulation* s, const uint32_t* words, uint64_t n_words, uint32_t* reply, uint64_t max_cycles) {
    Vchip& chip = *s->chip;
    chip.loaded___05Fready = 1;
    uint64_t next = 0;
    for (uint64_t waited = 0; waited < max_cycles; ++waited) {
        chip.load___05Fvalid = next < n_words;
        if (next < n_words) chip.load___05Fpayload = words[next] | static_cast<uint64_t>(next == 0) << 32;
        chip.eval();
        const bool taken = chip.load___05Fvalid && chip.load___05Fready, replied = chip.loaded___05Fvalid;
        if (replied) *reply = word(chip.loaded___05Fpayload, 0);
        s->tick();
        next += taken;
        if (replied) {
            chip.load___05Fvalid = 0;
            chip.loaded___05Fready = 0;
            chip.eval();
            return 0;
        }
    }
    return 1;
}
#endif

}  // namespace

// One token in, one reply out.  Returns 0, 1 if the chip gave none within max_cycles, 2 if more logits came than fit, or STOPPED.
int simulation_token(Simulation* s, const uint32_t* command, uint32_t* reply, int32_t* logits, uint64_t capacity,
                     uint64_t max_cycles, Statistics* out) {
    return guarded([&] { return token(s, command, reply, logits, capacity, max_cycles, out); });
}

#ifdef LORA
// One frame in, one reply out.  Returns 0, 1 if the chip gave no reply within max_cycles, or STOPPED.
int simulation_load(Simulation* s, const uint32_t* words, uint64_t n_words, uint32_t* reply, uint64_t max_cycles) {
    return guarded([&] { return load(s, words, n_words, reply, max_cycles); });
}
#endif

}  // extern "C"
