"""`other_versions.py` runs these in processes of their own, with stand-ins on their path."""

collect_ignore = ["test_sglang_contract.py"]
