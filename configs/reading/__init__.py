"""Text that others wrote, read once and by one reader a format; what is odd is refused in bounded time and memory."""
