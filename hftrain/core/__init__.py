"""The loop and what it is made of: tasks, data, meters, horizon, runner, evaluator."""
