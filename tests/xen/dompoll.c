/* dompoll DOMID USEC: watches whether a domain is suspended, and prints each change with the time of the looks around it:
 * "STATE BEFORE_NS AT_NS", nanoseconds since 1970; STATE is running, suspended, shutdown, or gone. */
#define XC_WANT_COMPAT_MAP_FOREIGN_API
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xenctrl.h>

static unsigned long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

int main(int count, char **words)
{
    if (count != 3)
        return 2;
    xc_interface *xen = xc_interface_open(0, 0, 0);
    if (!xen) {
        perror("xc_interface_open");
        return 1;
    }
    uint32_t domain = atoi(words[1]);
    useconds_t pause = atoi(words[2]);
    const char *last = "";
    unsigned long long before = now();
    for (;;) {
        xc_dominfo_t info;
        int found = xc_domain_getinfo(xen, domain, 1, &info);
        unsigned long long at = now();
        const char *state = "running";
        if (found != 1 || info.domid != domain || info.dying)
            state = "gone";
        else if (info.shutdown)
            state = info.shutdown_reason == SHUTDOWN_suspend ? "suspended" : "shutdown";
        if (strcmp(state, last)) {
            printf("%s %llu %llu\n", state, before, at);
            fflush(stdout);
            last = state;
        }
        if (!strcmp(state, "gone"))
            return 0;
        before = at;
        usleep(pause);
    }
}
