"""What a width costs on a device."""
