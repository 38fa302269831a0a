// A board with its serial line, as a shared library that fpga/link/simulated_board.py calls through ctypes.
//
// DIVISOR: cycles of a bit on the line.

#include <unistd.h>

#include <cstdint>
#include <memory>
#include <stdexcept>

#include "Vchip.h"
#include "verilated.h"

namespace {

constexpr int BITS = 10;
constexpr uint8_t END = 0xC0;  // fpga.link.protocol

struct Board {
    VerilatedContext context;
    std::unique_ptr<Vchip> top{new Vchip{&context}};
    // The byte on its way to the board, and the one on its way back: its bits, how many are left, and cycles left of the present bit.
    uint32_t sending = 0, send_left = 0, send_timer = 0;
    uint32_t receiving = 0, receive_left = 0, receive_timer = 0;
    bool rested = false;

    void tick() {
        top->clk = 1;
        top->eval();
        top->clk = 0;
        top->eval();
    }
};

}  // namespace

extern "C" {

// Returns null if the folder or a ROM image is missing.
Board* board_new(const char* rom_folder) {
    char here[4096];
    if (!getcwd(here, sizeof here) || chdir(rom_folder)) return nullptr;
    auto b = std::make_unique<Board>();
    b->top->clk = 0;
    b->top->rst = 1;
    b->top->rx = 1;
    bool complete = true;
    try {
        b->top->eval();  // reads the ROM images
    } catch (const std::runtime_error&) {  // sim/rtl/stopped.cpp
        complete = false;
    }
    const int back = chdir(here);
    (void)back;
    if (!complete) return nullptr;
    for (int i = 0; i < 4; ++i) b->tick();
    b->top->rst = 0;
    b->tick();
    return b.release();
}

void board_delete(Board* b) {
    // A scope deletes itself from the context of the thread.  That context may belong to another board, which is deleted already.
    Verilated::threadContextp(&b->context);
    delete b;
}

// Runs the clock for ``cycles``, or until the board has sent ``capacity`` bytes or the end of a frame.  ``in`` has
// ``*n_in`` bytes for the board; afterwards ``*n_in`` is how many of them were started.  Returns how many bytes the board sent, those without a stop bit among them.
uint64_t board_run(Board* b, const uint8_t* in, uint64_t* n_in, uint8_t* out, uint64_t capacity, uint64_t cycles) {
    uint64_t taken = 0, came = 0;
    for (uint64_t cycle = 0; cycle < cycles && came < capacity; ++cycle) {
        if (b->send_left == 0 && taken < *n_in) {
            b->sending = static_cast<uint32_t>(in[taken++]) << 1 | 1u << (BITS - 1);
            b->send_left = BITS;
            b->send_timer = DIVISOR;
        }
        b->top->rx = b->send_left == 0 || (b->sending & 1);
        if (b->send_left != 0 && --b->send_timer == 0) {
            b->sending >>= 1;
            --b->send_left;
            b->send_timer = DIVISOR;
        }
        b->tick();
        const bool line = b->top->tx;
        if (b->receive_left == 0) {
            if (line) b->rested = true;
            else if (b->rested) {
                b->receive_left = BITS - 1;
                b->receive_timer = DIVISOR + DIVISOR / 2;
                b->receiving = 0;
            }
        } else if (--b->receive_timer == 0) {
            b->receive_timer = DIVISOR;
            b->receiving |= static_cast<uint32_t>(line) << (BITS - 1 - b->receive_left);
            if (--b->receive_left == 0) {
                b->rested = line;
                out[came++] = static_cast<uint8_t>(b->receiving);
                if (out[came - 1] == END) break;
            }
        }
    }
    *n_in = taken;
    return came;
}

}  // extern "C"
