#include "hybrid/deadlines.hpp"

namespace hybrid {

void Deadlines::add(Timed &item, Duration length, Time now)
{
    Queue &queue = queues_[length];
    item.length = length;
    item.expires = later(now, length);
    item.previous = queue.head.previous;
    item.next = &queue.head;
    item.previous->next = &item;
    queue.head.previous = &item;
    ++size_;
}

void Deadlines::remove(Timed &item)
{
    item.previous->next = item.next;
    item.next->previous = item.previous;
    item.previous = item.next = nullptr;
    item.expires = kNever;
    --size_;
}

Timed *Deadlines::pop_expired(Time now)
{
    for (auto &[length, queue] : queues_) {
        if (queue.empty() || queue.head.next->expires > now)
            continue;
        Timed *item = queue.head.next;
        remove(*item);
        return item;
    }
    return nullptr;
}

void Deadlines::collect(std::vector<Timed *> &items) const
{
    for (const auto &[length, queue] : queues_)
        for (Timed *item = queue.head.next; item != &queue.head; item = item->next)
            items.push_back(item);
}

Time Deadlines::next() const
{
    Time first = kNever;
    for (const auto &[length, queue] : queues_)
        if (!queue.empty() && queue.head.next->expires < first)
            first = queue.head.next->expires;
    return first;
}

} // namespace hybrid
