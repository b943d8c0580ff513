"""Jobs on real worker processes, seen from outside: what a producer may rely on."""
