"""What `runtime.watch` is made of: files that appear in a folder become rows of a database, each exactly once.

events or scans ──► news ──► folder (settled files) ──► service ──► result_store ──► database ──► result_reader
"""
