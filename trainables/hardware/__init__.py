"""How training reaches the hardware: processors and cards, their memory and clocks, and processes that share a step."""
