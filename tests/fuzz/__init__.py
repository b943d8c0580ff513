"""Fuzz: whatever reads bytes from outside is given anything, nearly right things above all.

One file a source of bytes: manifests, messages, what a command prints, what a module's child answers, tasks, archives,
settings, the command line, records in the store. The property is nearly always the same: it is accepted, and then all
that follows works with it, or it is refused with the one documented error; and nothing else has changed.

The suite tries each property a few times, the same values every time. To look for bugs, as long as one likes:

    pytest tests/fuzz --hypothesis-profile=long --timeout=0 -n 0
    pytest tests/fuzz/test_archive.py --hypothesis-profile=long --timeout=0 -n 0 --hypothesis-seed=1
"""
