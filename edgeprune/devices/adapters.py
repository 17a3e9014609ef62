"""A program of its own: `python adapters.py` tells the Vulkan adapters that a Python sees.

It prints a JSON list of [name, is it software]. It is started by path with the Python of the GPU,
whose environment decides which drivers there are, so it imports the standard library alone.
"""

from __future__ import annotations

import ctypes
import json
import struct

CPU = 4  # VK_PHYSICAL_DEVICE_TYPE_CPU
TYPE, NAME, NAME_BYTES, PROPERTIES_BYTES = 16, 20, 256, 2048  # VkPhysicalDeviceProperties


class InstanceCreateInfo(ctypes.Structure):
    """VkInstanceCreateInfo without layers and extensions."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.c_void_p),
        ("layer_count", ctypes.c_uint32),
        ("layers", ctypes.c_void_p),
        ("extension_count", ctypes.c_uint32),
        ("extensions", ctypes.c_void_p),
    )


def adapters() -> list[tuple[str, bool]]:
    """Return (name, is it software) of every Vulkan adapter; none where Vulkan is missing."""
    try:
        vulkan = ctypes.CDLL("libvulkan.so.1")
    except OSError:
        return []
    instance, info = ctypes.c_void_p(), InstanceCreateInfo(type=1)
    if vulkan.vkCreateInstance(ctypes.byref(info), None, ctypes.byref(instance)) != 0:
        return []
    count = ctypes.c_uint32()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
    devices = (ctypes.c_void_p * count.value)()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), devices)
    found = []
    for device in devices[: count.value]:
        properties = ctypes.create_string_buffer(PROPERTIES_BYTES)
        vulkan.vkGetPhysicalDeviceProperties(ctypes.c_void_p(device), properties)
        (kind,) = struct.unpack_from("=i", properties, TYPE)
        name = properties.raw[NAME : NAME + NAME_BYTES].partition(b"\0")[0]
        found.append((name.decode(errors="replace"), kind == CPU))
    vulkan.vkDestroyInstance(instance, None)
    return found


if __name__ == "__main__":
    print(json.dumps(adapters()))
