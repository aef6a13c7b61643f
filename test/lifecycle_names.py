"""Names that rclpy gives to the services and the topic of every managed node."""

LIFECYCLE = {
    "~/change_state",
    "~/get_state",
    "~/get_available_states",
    "~/get_available_transitions",
    "~/get_transition_graph",
    "~/transition_event",
}
