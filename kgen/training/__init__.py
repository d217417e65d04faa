"""How the zoo trains: one step for every model and backend, runs, callbacks, devices."""
