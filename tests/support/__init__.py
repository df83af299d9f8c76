"""What several folders of tests share: tiny models and data, a small federation, logs, and how processes are run."""
