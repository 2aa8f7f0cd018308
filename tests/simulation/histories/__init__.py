"""Whole histories of a run on a hostile planet: virtual time, power cuts, a misbehaving API, one seed for all of it.

scenario   what happens: rows, settings, faults, weather, crashes; drawn from the seed
loop       an event loop on virtual time that shuffles what is ready
disk       a folder that forgets what was not flushed
bucket     a folder as an object store
api        the simulator's world in the same process, behind the Transport port
life       one process of the run, from its start to its crash, stop or end
history    lives, one after the other, until the run is done
checker    what must hold afterwards; reads the world's ledger, the run's ledger and the output files

The engine, the store, the scheduler and the sinks are the real ones. Nothing here waits for real time.
"""
