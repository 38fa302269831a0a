"""The command line: each command one thin call into a stage."""
