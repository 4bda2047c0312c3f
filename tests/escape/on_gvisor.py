"""Tests whose attack is answered otherwise on gVisor (`make escape-gvisor`), and why that is no hole.

They run there all the same, and are reported as xfailed (xpassed, where a newer gVisor answers as Linux does).
"""

DIFFERENT = {
    "test_daemons_do_not_outlive_their_run": "the host doesn't see a run's processes: nothing shows that they began",
    "test_descriptors": "/proc/self/fd calls descriptors of ours host:[n] instead of pipe and socket",
    "test_known_ideas": "there is a /dev/fuse, gVisor's own; mounting is refused",
    "test_namespaces": "/proc/self/ns lacks ipc and uts, so that there is nothing to try setns on",
    "test_no_way_to_become_somebody_else": "/proc/self/status doesn't tell NoNewPrivs; the shim has asked prctl",
    "test_other_processes": "pidfd_open doesn't exist, so that pidfd_getfd can't be tried",
    "test_priorities_and_limits": "nice values are gVisor's own: nothing of the host is scheduled by them",
    "test_processes_of_this_host": "pidfd_open doesn't exist",
    "test_settings_and_secrets_of_the_kernel": "there is a /sys, made up by gVisor",
    "test_sockets": "another errno for a kind of socket that there isn't",
    "test_the_init_of_a_sandbox_gives_nothing_away": "pidfd_open doesn't exist",
    "test_the_listener_itself_leads_nowhere": "IP_TRANSPARENT does nothing, without a word; an address is "
    "bound that is local in the run's own network, as all are",
    "test_the_numbers_of_other_processors": "int 0x80 is taken for a 64-bit call, and filtered as one",
    "test_typing_into_a_terminal": "/dev/tty answers EIO",
}
# These attack templates, which gVisor hasn't: every run is cold there, and that is attacked by the others.
ABOUT_TEMPLATES = "test_templates.py"
