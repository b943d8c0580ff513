"""The code of module agents, as their child processes run it: classes, messages, answers."""
