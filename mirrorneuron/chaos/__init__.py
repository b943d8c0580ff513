"""The crash test: run jobs with countable effects on a private server and nodes, and kill the processes they run on.

Read in this order: schedule, graphs, invariants, process_tree, server, producer, proxy, network, stage, feed,
victims, driver.

    with stage.raised(node_argv) as raised:
        report = Driver(raised, schedule.plan(seed, jobs, minutes), audience).run()
"""
