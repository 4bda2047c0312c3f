"""Tests whose attack is answered otherwise on gVisor (`make escape-gvisor`), and why that is no hole.

They run there all the same, and must fail: one that passes, as a newer gVisor answers like Linux, is to go from here.
"""

DIFFERENT = {
    "test_a_broken_conversation_ends_the_run_and_is_recorded[socket.send_fds(request, [b'xxxxx'], [0] * 100)-"
    "workflow_crashed]": "so many descriptors can't be sent at once: EINVAL",
    "test_a_hog_has_its_share_and_no_more": "processes count the time as used in which they wait for a processor; the "
    "share of all of gVisor is limited from outside, and so small a one is too slow for this attack",
    "test_daemons_do_not_outlive_their_run": "the host doesn't see a run's processes: nothing shows that they began",
    "test_descriptors": "/proc/self/fd calls descriptors of ours host:[n] instead of pipe and socket",
    "test_hostile_trees": "a FIFO can't be linked: EBADF",
    "test_known_ideas": "there is a /dev/fuse, gVisor's own; mounting is refused",
    "test_namespaces": "/proc/self/ns lacks ipc and uts, so that there is nothing to try setns on",
    "test_no_way_to_become_somebody_else": "/proc/self/status doesn't tell NoNewPrivs; the shim has asked prctl",
    "test_other_processes": "pidfd_open doesn't exist, so that pidfd_getfd can't be tried",
    "test_priorities_and_limits": "nice values are gVisor's own: nothing of the host is scheduled by them",
    "test_processes_of_this_host": "pidfd_open doesn't exist",
    "test_settings_and_secrets_of_the_kernel": "there is a /sys, made up by gVisor",
    "test_so_many_and_no_more": "its processes are none of the host's; it holds as many as the memory of the run does",
    "test_sockets": "another errno for a kind of socket that there isn't",
    "test_the_init_of_a_sandbox_gives_nothing_away": "pidfd_open doesn't exist",
    "test_the_listener_itself_leads_nowhere": "IP_TRANSPARENT does nothing, without a word; an address is "
    "bound that is local in the run's own network, as all are",
    "test_the_numbers_of_other_processors": "int 0x80 is taken for a 64-bit call, and filtered as one",
    "test_typing_into_a_terminal": "/dev/tty answers EIO",
}
# These attack templates, which gVisor hasn't: every run is cold there, and that is attacked by the others.
ABOUT_TEMPLATES = ("test_templates.py", "test_templates_mess.py")
