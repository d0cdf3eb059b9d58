"""SIRL beside everything else that one could do with the same model: what is compared, how it is run, what comes out.

    jobs = plan_jobs("demo", methods=["none", "sirl"], seeds=[0, 1], folder=Path("comparison"))
    found = compare(jobs, Path("comparison"))

`sirl.compare.methods` has the table of methods; `docs/compare.md` says what is held equal.
"""
