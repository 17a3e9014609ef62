"""A stand-in for onnxruntime_perf_test: its options, its words and its file of results.

Runs the model with the onnxruntime of this machine, and writes one line a run as perf_test does:
folder of the model, seconds, peak of the working set, share of the processor, number of the run.
"""

import argparse
import os
import sys
import time

import numpy as np
import onnxruntime as ort


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-I", action="store_true")
    parser.add_argument("-m", choices=["times"])
    parser.add_argument("-e", choices=["cpu"])
    for name in "rSxyo":
        parser.add_argument("-" + name, type=int)
    parser.add_argument("model")
    parser.add_argument("result")
    asked = parser.parse_args()
    assert os.environ["LD_LIBRARY_PATH"] == "."
    assert os.path.exists("libonnxruntime.so")
    options = ort.SessionOptions()
    options.intra_op_num_threads = asked.x
    began = time.perf_counter()
    try:
        session = ort.InferenceSession(asked.model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        sys.stderr.write("%s\n" % error)
        return 255
    print("\nSession creation time cost: %g s" % (time.perf_counter() - began))
    feeds = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()}
    session.run(None, feeds)
    print("First inference time cost: 1 ms")
    with open(asked.result, "a", encoding="utf-8") as stream:
        for number in range(asked.r):
            began = time.perf_counter()
            session.run(None, feeds)
            stream.write("folder,%g,1000,99,%d\n" % (time.perf_counter() - began, number))
    return 0


sys.exit(main())
