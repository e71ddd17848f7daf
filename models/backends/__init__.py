"""Back ends: what runs a plan's steps on a device."""
