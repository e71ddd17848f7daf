"""What subnets are worth: measured tables, smoothing, measuring."""
