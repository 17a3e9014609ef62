"""Where models run: device profiles, and how a device is asked."""
