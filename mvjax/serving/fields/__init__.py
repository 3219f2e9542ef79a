"""What requests may hold, as pydantic models: the fields that are served, their limits, and what is refused."""
