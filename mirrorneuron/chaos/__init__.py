"""The crash test: jobs whose effects can be counted, on a stage of their own, while everything they run on is killed.

Read in this order: schedule, graphs, invariants, processes, server, producer, stage, victims, driver.

    with stage.raised(node_argv) as raised:
        report = Driver(raised, schedule.plan(seed, jobs, minutes), audience).run()
"""
