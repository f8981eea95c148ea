"""Classify failures and decide about retries."""
