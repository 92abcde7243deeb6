"""The only place that wires: run config, plan, runner, report and command line."""
