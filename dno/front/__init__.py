"""What people meet first: the `dno` command and `dno.optimize`. Both only assemble a RunConfig and run it."""
