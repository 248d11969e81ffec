// The smallest program worth measuring: prints a line and ends.
#include <stdio.h>

int main(void) {
    puts("hello");
    return 0;
}
