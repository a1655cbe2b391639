"""Classifies whole archives on Ray Data; nothing of the runtime but `runtime.classify_cluster` imports it.

    listing (files, in blocks) ──► read ──────► score ─────────► write ──► OUTPUT/block-0000000.parquet …
                                   tasks, CPU   actors, a model   tasks
                                                each, CPU or GPU

A block is the unit of everything: of work, of retries, of what is kept and of what a resumed job does again. A block
that has its file is done.
"""
