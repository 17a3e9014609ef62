"""A recording stand-in for adb: stores what is pushed, and runs what it is told on this machine.

The device's shell gets a session of its own, as on a device: when this process ends, however it does,
all that happens over there is that standard input closes. The folder RECORDS holds the log of all
calls, and the file `state`, which tests change to unplug the device.
"""

import json
import os
import shutil
import subprocess
import sys
import threading

RECORDS = os.environ["ADB_RECORDS"]


def main(words):
    with open(os.path.join(RECORDS, "calls"), "a", encoding="utf-8") as log:
        log.write(json.dumps(words) + "\n")
    serial = os.environ.get("ANDROID_SERIAL")
    if words[0] == "-s":
        serial, words = words[1], words[2:]
    with open(os.path.join(RECORDS, "state"), encoding="utf-8") as stream:
        state = stream.read().strip()
    if state == "unauthorized":
        return fail("error: device unauthorized.\nThis adb server's key is not allowed")
    if state == "none":
        return fail("error: no devices/emulators found")
    if serial not in (None, "phone-1"):
        return fail("error: device '%s' not found" % serial)
    verb, *rest = words
    if verb == "get-state":
        print(state)
        return 0
    if verb in ("push", "pull"):
        source, target = rest
        if not os.path.exists(source):
            return fail("adb: error: failed to stat remote object '%s': No such file" % source)
        if not os.path.isdir(os.path.dirname(target)):
            return fail("adb: error: failed to copy '%s': remote No such file" % source)
        shutil.copyfile(source, target)
        os.chmod(target, 0o644)
        return 0
    if verb == "shell":
        assert rest[:3] == ["-e", "none", "-T"], rest
        return shell(" ".join(rest[3:]))
    return fail("adb: unknown command %s" % verb)


def fail(words):
    sys.stderr.write(words + "\n")
    return 1


def shell(command):
    program = [os.environ.get("ADB_SHELL", "sh"), "-c", command]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, start_new_session=True)

    def forward():
        try:
            while True:
                piece = os.read(0, 65536)
                if not piece:
                    break
                process.stdin.write(piece)
                process.stdin.flush()
            process.stdin.close()
        except (BrokenPipeError, ValueError):
            pass

    threading.Thread(target=forward, daemon=True).start()
    code = process.wait()
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
