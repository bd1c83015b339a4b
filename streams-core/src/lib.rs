//! Topologies and the tasks that run them: Brooklet's engine, runtime and test driver.
