// The simulation that harness.cpp, observe.cpp and trace.cpp share.

#pragma once

#include <cstdint>
#include <memory>

#include "Vchip.h"
#include "verilated.h"

// An observer of the chip, called in each cycle.  observe.cpp and trace.cpp define one each; a plain library has none.
struct Witness {
    virtual ~Witness() = default;
    // Called with ``high`` false when all signals are stable and the rising edge comes next, with true after that edge.
    virtual void look(bool high) = 0;
};

struct Simulation {
    VerilatedContext context;
    std::unique_ptr<Vchip> chip;
    std::unique_ptr<Witness> witness;

    void tick() {
        if (witness) witness->look(false);
        chip->clk = 1;
        chip->eval();
        if (witness) witness->look(true);
        chip->clk = 0;
        chip->eval();
    }
};
