"""One module for each command, or for a few commands with one subject; imported when the command is used."""
