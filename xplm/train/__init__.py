"""Training: data, optimizers, schedules, the step, the loop, and what they leave behind."""
