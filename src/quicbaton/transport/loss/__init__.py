"""Loss detection, congestion control and pacing (RFC 9002)."""
