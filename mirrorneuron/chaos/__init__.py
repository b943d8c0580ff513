"""The crash test: run jobs with countable effects on a private server and nodes, and kill the processes they run on.

Read in this order: schedule, graphs, invariants, process_tree, clock, server, producer, proxy, network, stage, feed,
victims, descriptors, repairs, blows, driver.

    with stage.raised(node_argv) as raised:
        report = Driver(raised, schedule.plan(seed, jobs, minutes), audience).run()
"""
