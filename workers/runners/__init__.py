"""Runners run the commands of executors: `protocol` defines a runner, `registry` lists them, `host_local` is one.

Read the parts of `host_local` in this order: sandbox_paths, uploads, body_file, command, child_process, output_capture,
orphan_killer.
"""
