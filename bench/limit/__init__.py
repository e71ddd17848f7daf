"""How close the server comes to the bare kernel; see `bench.limit.__main__`."""
