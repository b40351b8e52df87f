// Executes one launch: each CUDA thread is a fiber with a stack of its own, and one fiber at a time runs.
//
// A fiber runs until it ends, waits for others (barrier, warp collective), or comes to a place where the order of the
// launch lets another one go on. Ordered launches run block after block and switch only where a fiber must wait.
// Of the fibers that may go on it is the one that has waited longest; where one is to be ahead, it is the first one of
// the block, or the last: a fiber runs as far ahead of those after it as barriers and collectives allow, and these
// starve. So of any two threads each is once as far ahead of the other as it can be.
// Shuffled ones have several blocks in flight, pick the next fiber by a seeded generator, and also switch at atomics
// and accesses to memory, so that threads which should have waited for each other are seen in bad orders.
//
// The compiler reports every access of a kernel to memory (-fsanitize=thread) and what C++ leaves undefined
// (-fsanitize=alignment,bounds,...); accesses.h has the functions that it calls, so that no library is needed.
// A fault ends the launch at once: the fibers are left where they are, and the launch returns a message.
//
// All state is global: each library has its own, and one launch of a library runs at a time (build.py has the lock).

#define CUDA_ON_CPU_SCHEDULER
#include "contexts.h"
#include "scheduler.h"

// Symbols that the linker makes, of this library: all of it, and its part for static variables without a first value.
// The kernels have no others than their shared memory there. The variables of this file have first values, which puts
// them elsewhere (-fno-zero-initialized-in-bss).
extern "C" CUDA_ON_CPU_HIDDEN unsigned char __ehdr_start[], __bss_start[], _end[];

namespace cuda_on_cpu {

Three thread_index = {}, block_index = {}, block_size = {}, grid_size = {};

namespace {

const char* const COLLECTIVE_NAMES[] = {"__syncwarp",    "__shfl_sync",   "__shfl_up_sync", "__shfl_down_sync",
                                        "__shfl_xor_sync", "__ballot_sync", "__any_sync",     "__all_sync",
                                        "__match_any_sync"};
const unsigned WARP_LANES = 32;
const int POISON = 0xCD;
const Word POISON_WORD = 0xCDCDCDCDCDCDCDCDull;
const unsigned MOST_BLOCKS_IN_FLIGHT = 4;
// Shuffled: one switch in so many goes to another block, and at most so many accesses lie between two switches.
const unsigned BLOCK_SWITCH = 4, MOST_ACCESSES = 8;
// Ordered: a fiber lets another go on after so many atomics, as it may be waiting for it.
const unsigned PATIENCE = 1000;
// So many switches and atomics without any fiber that ends or passes a barrier: the launch is taken to hang.
const unsigned MOST_IDLE = 20000000;

// A fiber whose stack has less left has very likely been beyond it.
const Word LEAST_STACK = 2048;

// ---- State ----

enum State { NOT_BEGUN, READY, AT_BARRIER, AT_COLLECTIVE, ENDED };

struct Block;

struct Fiber {
    Context context;
    unsigned char* stack;
    Block* block;
    unsigned thread;  // x fastest
    Three index;
    State state;
    // What it waits for at AT_COLLECTIVE, and what it gets.
    Collective what;
    unsigned mask;
    Word value, result;
    int lane, width;
};

struct Warp {
    unsigned live, waiting;  // lanes that have not ended; lanes at a collective
};

struct Block {
    Fiber* fibers;
    Warp* warps;
    unsigned* queue;        // ring of the threads that may go on; where one is to be ahead:
    unsigned* ready_ranks;  // a bit for each of them, at its place in the order of the launch
    unsigned head, ready, live, at_barrier;
    unsigned char* dynamic;
    unsigned char* shared;  // its static shared memory while another block runs
    Three index;
};

// Each has a first value, or it would lie where the shared memory of the kernels does.
const Launch* launch = nullptr;
void (*invoke)(void**) = nullptr;
Context main_context = {};
Fiber* current = nullptr;
Block* blocks[MOST_BLOCKS_IN_FLIGHT] = {};
unsigned in_flight = 0;
Block* entered = nullptr;  // the block whose static shared memory is in place
Word next_block = 0, block_count = 0;
unsigned* block_order = nullptr;  // shuffled only
unsigned threads = 0, warp_count = 0;
unsigned char** free_stacks = nullptr;
unsigned free_stack_count = 0;
bool is_shuffled = false, is_reversed = false, is_unfair = false;
unsigned first_rank = 0;     // unfair: where the search for the fiber that goes on begins
unsigned recent_of_8 = 0;  // shuffled: how often, of 8 times, the fiber that became ready last goes on
unsigned accesses_left = 0, atomics = 0, idle = 0;
Word random_state = 0;

unsigned random_below(unsigned bound) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)(((random_state >> 32) * bound) >> 32);
}

Word static_bytes() { return (Word)(_end - __bss_start); }

[[noreturn]] void leave() {
    switch_context(current->context, main_context);
    __builtin_unreachable();
}

// Ends the launch with a message that names the thread.
template <class... Values>
[[noreturn]] void fail(const char* format, Values... values) {
    char text[400];
    __builtin_snprintf(text, sizeof text, format, values...);
    __builtin_snprintf(
        launch->message, launch->message_bytes, "thread (%u, %u, %u) of block (%u, %u, %u) %s", current->index.x,
        current->index.y, current->index.z, block_index.x, block_index.y, block_index.z, text);
    leave();
}

// ---- Which fiber goes on ----

// Its own inverse.
unsigned nth_thread(unsigned i) { return is_reversed ? threads - 1 - i : i; }

void push(Block* block, unsigned thread) {
    if (is_unfair) {
        unsigned rank = nth_thread(thread);
        block->ready_ranks[rank / WARP_LANES] |= 1u << rank % WARP_LANES;
        ++block->ready;
        return;
    }
    unsigned at = block->head + block->ready++;
    block->queue[at < threads ? at : at - threads] = thread;
}

// The first one that is ready, from first_rank on and around. One is.
unsigned pop_first(Block* block) {
    unsigned w = first_rank / WARP_LANES, bits = block->ready_ranks[w] & ~0u << first_rank % WARP_LANES;
    while (!bits) {
        w = w + 1 < warp_count ? w + 1 : 0;
        bits = block->ready_ranks[w];
    }
    unsigned bit = (unsigned)__builtin_ctz(bits);
    block->ready_ranks[w] &= ~(1u << bit);
    --block->ready;
    return nth_thread(w * WARP_LANES + bit);
}

unsigned pop(Block* block) {
    if (is_unfair) return pop_first(block);
    if (is_shuffled && block->ready > 1) {
        unsigned last = block->ready - 1;
        unsigned chosen = random_below(8) < recent_of_8 ? last : random_below(block->ready);
        unsigned at = (block->head + chosen) % threads;
        unsigned thread = block->queue[at];
        if (chosen == last) {
            // Not by an exchange with the oldest, which would become the next one to be the last.
            --block->ready;
            return thread;
        }
        block->queue[at] = block->queue[block->head];
        block->queue[block->head] = thread;
    }
    unsigned thread = block->queue[block->head];
    block->head = block->head + 1 < threads ? block->head + 1 : 0;
    --block->ready;
    return thread;
}

void enter(Block* block) {
    if (block == entered) return;
    if (entered) __builtin_memcpy(entered->shared, __bss_start, static_bytes());
    __builtin_memcpy(__bss_start, block->shared, static_bytes());
    entered = block;
    block_index = block->index;
}

// Begins the next block of the grid in the place of one that has ended.
void begin(Block* block) {
    Word i = next_block++;
    Word b = is_shuffled ? block_order[i] : is_reversed ? block_count - 1 - i : i;
    block->index.x = (unsigned)(b % grid_size.x);
    block->index.y = (unsigned)(b / grid_size.x % grid_size.y);
    block->index.z = (unsigned)(b / grid_size.x / grid_size.y);
    block->head = block->ready = block->at_barrier = 0;
    block->live = threads;
    for (unsigned w = 0; w < warp_count; ++w) {
        unsigned lanes = threads - w * WARP_LANES;
        block->warps[w].live = lanes < WARP_LANES ? (1u << lanes) - 1 : ~0u;
        block->warps[w].waiting = 0;
        block->ready_ranks[w] = 0;
    }
    for (unsigned i = 0; i < threads; ++i) {
        unsigned t = nth_thread(i);
        block->fibers[t].state = NOT_BEGUN;
        push(block, t);
    }
    // What a block reads and has not written is seen.
    __builtin_memset(block->dynamic, POISON, launch->shared_bytes);
    __builtin_memset(block == entered ? __bss_start : block->shared, POISON, static_bytes());
    if (block == entered) block_index = block->index;
}

// Ends the launch, as no thread of a block can go on.
[[noreturn]] void fail_waiting(const Block* block) {
    char* text = launch->message;
    Word bytes = launch->message_bytes;
    Word used = (Word)__builtin_snprintf(
        text, bytes, "block (%u, %u, %u) waits for threads that never come", block_index.x, block_index.y,
        block_index.z);
    for (unsigned first = 0, end; first < threads && used < bytes; first = end) {
        const Fiber& fiber = block->fibers[first];
        bool is_collective = fiber.state == AT_COLLECTIVE;
        for (end = first + 1; end < threads; ++end) {
            const Fiber& other = block->fibers[end];
            if (other.state != fiber.state) break;
            if (is_collective && (other.what != fiber.what || other.mask != fiber.mask)) break;
        }
        const char* place = is_collective ? COLLECTIVE_NAMES[fiber.what] : "__syncthreads";
        if (fiber.state == ENDED) place = "the end";
        used += (Word)__builtin_snprintf(
            text + used, bytes - used, "; threads %u to %u are at %s", first, end - 1, place);
        if (is_collective && used < bytes)
            used += (Word)__builtin_snprintf(text + used, bytes - used, " of lanes %08x", fiber.mask);
    }
    leave();
}

// The fiber that goes on; nullptr: all have ended. The current fiber is counted where it belongs already.
Fiber* next() {
    if (++idle > MOST_IDLE) fail("waits for something that does not come");
    if (in_flight > 1 && (!entered->ready || random_below(BLOCK_SWITCH) == 0)) enter(blocks[random_below(in_flight)]);
    while (!entered->ready) {
        if (entered->live) fail_waiting(entered);
        if (next_block < block_count) {
            begin(entered);
        } else {
            unsigned place = 0;
            while (blocks[place] != entered) ++place;
            blocks[place] = blocks[--in_flight];
            if (!in_flight) return nullptr;
            enter(blocks[random_below(in_flight)]);
        }
    }
    return &entered->fibers[pop(entered)];
}

void fiber_main();

void resume(Fiber* fiber) {
    current = fiber;
    thread_index = fiber->index;
}

// Goes on with another fiber; returns when the current one goes on.
void switch_to(Fiber* to) {
    Fiber* from = current;
    if (to->state == NOT_BEGUN) {
        to->stack = free_stacks[--free_stack_count];
        make_context(to->context, to->stack, launch->stack_bytes, fiber_main);
        to->state = READY;
    }
    resume(to);
    if (to != from) switch_context(from->context, to->context);
}

// Lets others run until the current fiber is ready.
void suspend() {
    Word left = (Word)((unsigned char*)__builtin_frame_address(0) - current->stack);
    if (left < LEAST_STACK || left > launch->stack_bytes)
        fail("needs more than %llu bytes of stack", launch->stack_bytes);
    switch_to(next());
}

// Lets another fiber run, where there is one that can.
void let_others_on() {
    if (entered->ready) {
        // Those that are behind have their turn, one after another.
        first_rank = (nth_thread(current->thread) + 1) % threads;
        Fiber* to = next();
        first_rank = 0;
        push(current->block, current->thread);
        switch_to(to);
    } else {
        push(current->block, current->thread);
        suspend();
    }
}

void release(Fiber& fiber) {
    fiber.state = READY;
    push(fiber.block, fiber.thread);
}

void release_barrier(Block* block) {
    if (!block->at_barrier || block->at_barrier < block->live) return;
    block->at_barrier = 0;
    idle = 0;
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& fiber = block->fibers[nth_thread(i)];
        if (fiber.state == AT_BARRIER) release(fiber);
    }
}

// What lane `lane` of a warp gets from a collective of the lanes `taking`.
Word result_of(const Fiber* lanes, unsigned taking, unsigned lane) {
    const Fiber& fiber = lanes[lane];
    unsigned begin = lane & ~(unsigned)(fiber.width - 1), end = begin + (unsigned)fiber.width;
    unsigned other = lane;
    Word result = 0;
    switch (fiber.what) {
    case SYNCWARP:
        return 0;
    case SHUFFLE:
        other = begin + ((unsigned)fiber.lane & (unsigned)(fiber.width - 1));
        break;
    case SHUFFLE_UP:
        if (lane - begin >= (unsigned)fiber.lane) other = lane - (unsigned)fiber.lane;
        break;
    case SHUFFLE_DOWN:
        if ((unsigned)fiber.lane < end - lane) other = lane + (unsigned)fiber.lane;
        break;
    case SHUFFLE_XOR:
        if ((lane ^ (unsigned)fiber.lane) < end) other = lane ^ (unsigned)fiber.lane;
        break;
    default:
        for (unsigned i = 0; i < WARP_LANES; ++i) {
            if (!(taking >> i & 1)) continue;
            bool counts = fiber.what == MATCH_ANY ? lanes[i].value == fiber.value : lanes[i].value != 0;
            result |= (Word)counts << i;
        }
        return fiber.what == ANY ? result != 0 : fiber.what == ALL ? result == taking : result;
    }
    // A lane that takes no part has no value.
    return taking >> other & 1 ? lanes[other].value : POISON_WORD;
}

// Lets the lanes of `fiber`'s collective go on where all have come.
void release_collective(Fiber& fiber) {
    Block* block = fiber.block;
    unsigned w = fiber.thread / WARP_LANES;
    Warp& warp = block->warps[w];
    Fiber* lanes = block->fibers + w * WARP_LANES;
    unsigned taking = fiber.mask & warp.live;
    if ((taking & warp.waiting) != taking) return;
    for (unsigned i = 0; i < WARP_LANES; ++i)
        if (taking >> i & 1 && (lanes[i].what != fiber.what || lanes[i].mask != fiber.mask)) return;
    for (unsigned i = 0; i < WARP_LANES; ++i)
        if (taking >> i & 1) lanes[i].result = result_of(lanes, taking, i);
    warp.waiting &= ~taking;
    for (unsigned i = 0; i < WARP_LANES; ++i) {
        unsigned lane = is_reversed ? WARP_LANES - 1 - i : i;
        if (taking >> lane & 1) release(lanes[lane]);
    }
}

// The current fiber has ended: what waited for the others alone goes on.
void end_current() {
    Block* block = current->block;
    unsigned w = current->thread / WARP_LANES;
    Warp& warp = block->warps[w];
    current->state = ENDED;
    idle = 0;
    --block->live;
    warp.live &= ~(1u << current->thread % WARP_LANES);
    for (unsigned i = 0; i < WARP_LANES; ++i)
        if (warp.waiting >> i & 1) release_collective(block->fibers[w * WARP_LANES + i]);
    release_barrier(block);
}

// The first function on a stack. Fibers that do not wait run one after another on the same one.
void fiber_main() {
    for (;;) {
        invoke(launch->arguments);
        end_current();
        Fiber* from = current;
        Fiber* to = next();
        if (!to) leave();
        if (to->state == NOT_BEGUN) {
            to->stack = from->stack;
            to->state = READY;
            resume(to);
            continue;
        }
        free_stacks[free_stack_count++] = from->stack;
        resume(to);
        switch_context(from->context, to->context);
    }
}

}  // namespace
}  // namespace cuda_on_cpu

#include "accesses.h"

namespace cuda_on_cpu {

void barrier() {
    current->state = AT_BARRIER;
    ++current->block->at_barrier;
    release_barrier(current->block);
    suspend();
}

Word collective(Collective what, unsigned mask, Word value, int lane, int width) {
    Fiber& fiber = *current;
    if (!(mask & lane_bit())) fail("calls %s for the lanes %08x without being one", COLLECTIVE_NAMES[what], mask);
    if (width < 1 || width > 32 || (width & (width - 1))) fail("calls %s with width %d", COLLECTIVE_NAMES[what], width);
    fiber.what = what;
    fiber.mask = mask;
    fiber.value = value;
    fiber.lane = lane;
    fiber.width = width;
    fiber.state = AT_COLLECTIVE;
    fiber.block->warps[fiber.thread / WARP_LANES].waiting |= lane_bit();
    release_collective(fiber);
    suspend();
    return fiber.result;
}

void switch_point() {
    if (++idle > MOST_IDLE) fail("waits for something that does not come");
    if (is_shuffled) {
        if (random_below(4) == 0) let_others_on();
    } else if (++atomics >= PATIENCE) {
        atomics = 0;
        let_others_on();
    }
}

void atomic_point(void* address, Word bytes) {
    check_access(address, bytes, true);
    switch_point();
}

unsigned lane_bit() { return 1u << current->thread % WARP_LANES; }

unsigned char* dynamic_shared() { return current->block->dynamic; }

void run(const Launch& the_launch, unsigned most_threads, void (*the_invoke)(void**)) {
    launch = &the_launch;
    invoke = the_invoke;
    grid_size = {launch->grid[0], launch->grid[1], launch->grid[2]};
    block_size = {launch->block[0], launch->block[1], launch->block[2]};
    threads = block_size.x * block_size.y * block_size.z;
    launch->message[0] = 0;
    if (threads > most_threads) {
        __builtin_snprintf(launch->message, launch->message_bytes,
                           "launched with blocks of %u threads, but has launch bounds of %u", threads, most_threads);
        return;
    }
    warp_count = (threads + WARP_LANES - 1) / WARP_LANES;
    block_count = (Word)grid_size.x * grid_size.y * grid_size.z;
    is_shuffled = launch->order == SHUFFLED;
    is_reversed = launch->order == DESCENDING || launch->order == LAST_AHEAD;
    is_unfair = launch->order == FIRST_AHEAD || launch->order == LAST_AHEAD;
    first_rank = 0;
    random_state = (launch->seed + 1) * 0x9E3779B97F4A7C15ull;
    recent_of_8 = launch->seed % 2 ? 0 : 7;
    accesses_left = 1 + random_below(MOST_ACCESSES);
    atomics = idle = 0;
    next_block = 0;
    entered = nullptr;

    in_flight = is_shuffled ? launch->stack_count / threads : 1;
    if (in_flight > MOST_BLOCKS_IN_FLIGHT) in_flight = MOST_BLOCKS_IN_FLIGHT;
    if (in_flight > block_count) in_flight = (unsigned)block_count;

    free_stack_count = launch->stack_count;
    free_stacks = (unsigned char**)__builtin_malloc(free_stack_count * sizeof(unsigned char*));
    for (unsigned i = 0; i < free_stack_count; ++i)
        free_stacks[free_stack_count - 1 - i] = launch->stacks + i * launch->stack_bytes;
    block_order = nullptr;
    if (is_shuffled) {
        block_order = (unsigned*)__builtin_malloc(block_count * sizeof(unsigned));
        for (unsigned i = 0; i < block_count; ++i) {
            unsigned j = random_below(i + 1);
            block_order[i] = block_order[j];
            block_order[j] = i;
        }
    }
    Block made[MOST_BLOCKS_IN_FLIGHT];
    for (unsigned b = 0; b < in_flight; ++b) {
        Block* block = blocks[b] = &made[b];
        block->fibers = (Fiber*)__builtin_malloc(threads * sizeof(Fiber));
        block->warps = (Warp*)__builtin_malloc(warp_count * sizeof(Warp));
        block->queue = (unsigned*)__builtin_malloc(threads * sizeof(unsigned));
        block->ready_ranks = (unsigned*)__builtin_malloc(warp_count * sizeof(unsigned));
        block->dynamic = (unsigned char*)__builtin_aligned_alloc(256, (launch->shared_bytes + 511) / 256 * 256);
        block->shared = (unsigned char*)__builtin_malloc(static_bytes());
        for (unsigned t = 0; t < threads; ++t) {
            Fiber& fiber = block->fibers[t];
            fiber.block = block;
            fiber.thread = t;
            fiber.index = {t % block_size.x, t / block_size.x % block_size.y, t / block_size.x / block_size.y};
        }
        begin(block);
    }
    unsigned made_count = in_flight;

    Fiber outside;  // so that there is a current fiber, to switch from
    outside.index = {0, 0, 0};
    outside.block = blocks[0];
    current = &outside;
    enter(blocks[0]);
    Fiber* first = next();
    first->stack = free_stacks[--free_stack_count];
    first->state = READY;
    make_context(first->context, first->stack, launch->stack_bytes, fiber_main);
    resume(first);
    switch_context(main_context, first->context);

    __builtin_memset(__bss_start, 0, static_bytes());  // a variable of the C library is there too
    for (unsigned b = 0; b < made_count; ++b) {
        __builtin_free(made[b].fibers);
        __builtin_free(made[b].warps);
        __builtin_free(made[b].queue);
        __builtin_free(made[b].ready_ranks);
        __builtin_free(made[b].dynamic);
        __builtin_free(made[b].shared);
    }
    __builtin_free(free_stacks);
    __builtin_free(block_order);
}

}  // namespace cuda_on_cpu
