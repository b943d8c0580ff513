"""Fuzz tests: code that reads input from outside gets arbitrary values, most of them nearly valid.

There is one file for each source of input: manifests, messages, output of commands, answers of module processes,
tasks, archives, settings, the command line, records in the store. The property is nearly always the same: the input is
accepted and everything after it works, or it is refused with the documented error and nothing has changed.

The suite tries each property with a few values, the same ones in every run. To search for bugs for longer:

    pytest tests/fuzz --hypothesis-profile=long --timeout=0 -n 0
    pytest tests/fuzz/test_archive.py --hypothesis-profile=long --timeout=0 -n 0 --hypothesis-seed=1
"""
