"""`other_versions.py` runs these in processes of their own, with stand-ins on their path."""

collect_ignore_glob = ["test_sglang_*.py"]
