"""A microcontroller: firmware built for the core and run in an emulator that counts exactly."""
